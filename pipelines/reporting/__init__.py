"""What people look at: tables, report, figures, summary, and a data set at a glance."""
