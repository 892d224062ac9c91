"""Devices, processes, the disk, values and names: code that does not depend on l_inf-dist nets."""
