"""What the audit finds, with intervals: evaluation, comparisons, and audits of classifiers and data."""
