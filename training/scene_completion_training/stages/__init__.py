"""The stages of training, a file each; `stage_registry` lists them."""
