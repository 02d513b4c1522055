"""GCS origins: Google Cloud Storage, private endpoints of it, and emulators.

Knows GCS's paths, tokens, documents, headers and errors. `origin` is the Origin contract. `target` names resources;
`credentials` fetches tokens; `record` and `listing` parse metadata and listings; `answers` and `errors` check the
responses; `forward` passes other operations through.
"""

from proxy.origin.gcs.credentials import AnonymousTokens, GoogleTokens, TokenSource, load_credentials
from proxy.origin.gcs.origin import GcsOrigin, GcsSettings

__all__ = ["AnonymousTokens", "GcsOrigin", "GcsSettings", "GoogleTokens", "TokenSource", "load_credentials"]
