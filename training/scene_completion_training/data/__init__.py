"""From posed sequences to training samples: stereo depth, fused occupancy, batches of views."""
