"""Coverage-guided fuzz targets."""
