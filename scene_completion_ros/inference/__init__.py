"""Image to SemanticVoxels without torch: student bundle, encoder engines, voxel query, march, completer."""
