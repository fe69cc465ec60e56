"""The API's objects and requests, one pydantic model for each.

A field added here is validated, stored, returned and described in /openapi.json.
"""
