"""What the studies share: pieces of work, results, intervals, tables, plots."""
