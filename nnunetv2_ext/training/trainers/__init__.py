"""Every trainer of this package. A new trainer module is added to the list of imports below; nothing else is needed."""

__all__: list[str] = []
