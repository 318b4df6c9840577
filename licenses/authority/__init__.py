"""The vendor's side: customers, keys, licences, usage and acknowledgements; never on an appliance."""
