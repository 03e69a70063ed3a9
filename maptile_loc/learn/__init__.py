"""Training of models. Nothing outside this folder, the API and the command line imports it."""
