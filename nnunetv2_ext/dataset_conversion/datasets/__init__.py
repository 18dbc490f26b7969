"""One module per dataset that the table alone cannot describe, each with a class ``Converter``."""
