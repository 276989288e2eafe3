"""What an evaluation measures and shows: samplers of models, measures, tables, curves, pictures, the written report."""
