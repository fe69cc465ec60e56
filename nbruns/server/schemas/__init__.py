"""The API's objects and requests, one pydantic model for each.

Add a field here and it is validated, stored, answered and described in /openapi.json.
"""
