"""A static file server: HTTP/1.1 with ranges, conditions and listings; bytes go from file to socket directly.

`tree` finds a file and lets nobody out of the directory, `conditions` and `ranges` are RFC 9110's sections 13 and 14,
`media` names types, `listing` makes a directory's page, and `site` puts them together to answer a request. How requests
and answers travel is `samples.web`'s.
"""
