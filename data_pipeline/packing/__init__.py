"""Best-fit packing: which documents, and pieces of documents, share a sequence. Worked out once, kept in an index."""
