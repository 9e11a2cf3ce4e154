"""What explains and never decides: causes, notices, regrets, usage, diagnostics."""
