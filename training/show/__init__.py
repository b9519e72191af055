"""Results for people: tables, charts, reports and pictures."""
