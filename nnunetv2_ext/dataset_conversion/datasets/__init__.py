"""One module per published dataset (or per family of them), and one per generic layout."""
