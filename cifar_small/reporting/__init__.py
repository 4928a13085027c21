"""Tables, pages and previews made from runs, records and predictions."""
