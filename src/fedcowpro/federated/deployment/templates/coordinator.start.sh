#!/bin/sh
# Starts the SuperLink on loopback and the proxy that sites reach, and registers the sites' public keys.
exec "$program" federation serve "$$(dirname "$$0")/.." "$$@"
