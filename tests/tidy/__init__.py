"""Style, enforced: what the tree, its imports, its sizes and its words must look like."""
