"""Tables and figures of guided distillation at small scale: `python -m studies.guided`."""
