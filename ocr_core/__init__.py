"""The core: decodes documents and reads them, behind the second wall; imports `licenses`, never `sidecar`."""
