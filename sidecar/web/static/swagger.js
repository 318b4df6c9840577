// The page's only script of our own: no inline code, no other host.
const place = document.getElementById("swagger-ui");
window.ui = SwaggerUIBundle({
  urls: JSON.parse(place.dataset.documents),
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
  layout: "StandaloneLayout",
});
