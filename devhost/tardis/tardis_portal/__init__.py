"""The host's own Django app: experiments, datasets, files, who may see them, and their pages."""
