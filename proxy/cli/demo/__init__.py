"""`warmstart demo`: a model in a slow cloud, loaded directly, cold through a gateway, and hot.

`model` makes the files, `origin` serves them like a throttled cloud (a process of its own), `load` reads them with a
real S3 client, `show` runs it all and prints the table; `fleet` does so for several nodes at once.
"""
