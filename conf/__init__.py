"""The configs: one folder per group, one YAML file per option. They only name things."""
