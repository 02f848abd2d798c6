"""From points of a feature field to classes with names: clusters, contact sheets, the class file, the label head."""
