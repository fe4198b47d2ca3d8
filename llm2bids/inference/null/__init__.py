"""False-positive rates of the pipelines, measured where there is nothing to find."""
