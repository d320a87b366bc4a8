"""Privacy of a site's update as functions of arrays: clipping, noise, its accountant, masks that cancel in a sum."""
