"""The pytest plugin. pytest loads ``plugin`` in every run, so that file imports nothing of ours before it is used."""
