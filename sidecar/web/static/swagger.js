// The page's only script of our own: no inline code, no other host.
window.ui = SwaggerUIBundle({
  url: "vision-v3.2-read/swagger.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
