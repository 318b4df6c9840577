"""`sidecar deploy`: the service in a container of Docker or Podman, from a bundle to its end.

Invariants:

* `engine.py` alone imports the Docker SDK, and nothing that serves imports this package: it runs beside the appliance.
* What is wanted and what follows is decided without an engine (`plan`, `body`, `decisions`, `words`, `redaction`);
  `service.py` does it, one step after another.
* What is checked is checked in a container of the image itself, on the engine's host, as the user that will serve; so
  it holds for an engine on another machine, and for one without root.
* No command removes the state, the records, a licence or an image.
"""
