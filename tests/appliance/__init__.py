"""Real containers and a real boot of systemd: `make test-appliance`. Not collected without APPLIANCE=1."""
