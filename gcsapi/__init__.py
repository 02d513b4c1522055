"""The GCS surface: requests of the JSON API and of the XML API in, answers out.

It knows Google Cloud Storage's paths, parameters, headers, documents and errors, and the use-cases of `proxy.gateway`.
It must not know disks, sockets, or the S3 surface.
"""
