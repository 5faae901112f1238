"""Many runs: cross-validation, the summary of its numbers, and the comparison of two workdirs."""
