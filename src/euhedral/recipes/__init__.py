"""One YAML file a named system: its model, how it is trained, where it comes from. `shipped` reads them by name."""
