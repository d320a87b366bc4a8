#!/bin/sh
# start.sh SITE_FOLDER: takes part in the federation until it is stopped.
exec fedcowpro federation join "$$(dirname "$$0")" --site-folder "$$1" --run
