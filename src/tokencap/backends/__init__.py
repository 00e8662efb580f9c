"""Where budgets are kept: one module per store, all on the contract in `protocol`."""
