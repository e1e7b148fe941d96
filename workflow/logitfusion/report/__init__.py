"""What people look at: plots and tables, made from the tidy table and the judged examples."""
