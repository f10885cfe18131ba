"""What a model of several senses is trained on: photos, spoken digits, series, scenes, tasks and batches of them."""
