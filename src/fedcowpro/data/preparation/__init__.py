"""From a folder of volumes to a site folder, once."""
