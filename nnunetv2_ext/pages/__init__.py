"""HTML that people look at: one file per page that needs nothing else, no network and no script of others."""
