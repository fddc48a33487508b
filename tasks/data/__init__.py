"""Where items come from: data sets with three splits, and the distortions of their training split."""
