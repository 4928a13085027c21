"""From predictions to a CSV, and what can be said of one: checks, differences, diagnosis, audit."""
