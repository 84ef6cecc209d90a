"""Varies training documents when they are tokenized: each choice a pure function of a seed and the document's text."""
