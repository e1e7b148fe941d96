"""Files out of package registries and the hub: pinned, digested, unpacked safely."""
