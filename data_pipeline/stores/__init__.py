"""Datasets behind a URL: fetched by record batch into a bounded cache of the node. Knows no order and no trainer."""
