"""How good generated SQL is: execution accuracy, exact-set match, and the report of an ablation."""
