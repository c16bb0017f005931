"""Sends the requests on standard input with one library; a line of JSON for each answer."""

import asyncio
import json
import ssl
import sys

work = json.load(sys.stdin)
proxy = "http://" + work["proxy"] if work["proxy"] else None


def tell(**answer):
    print(json.dumps(answer), flush=True)


def broken(error):
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    tell(broken=" | ".join(parts))


def with_requests():
    import requests

    session = requests.Session()
    session.verify = work["ca"]
    session.proxies = {"https": proxy} if proxy else {}
    for ask in work["requests"]:
        try:
            got = session.request(ask["method"], ask["url"], headers=dict(ask["headers"]), data=ask["body"], timeout=40)
            tell(status=got.status_code, version="1.1" if got.raw.version == 11 else str(got.raw.version), body=got.text)
        except requests.RequestException as error:
            broken(error)


def with_httpx():
    import httpx

    context = ssl.create_default_context(cafile=work["ca"])
    with httpx.Client(http2=work["h2"], verify=context, proxy=proxy, timeout=40) as client:
        for ask in work["requests"]:
            try:
                got = client.request(ask["method"], ask["url"], headers=dict(ask["headers"]), content=ask["body"])
                tell(status=got.status_code, version=got.http_version.removeprefix("HTTP/"), body=got.text)
            except httpx.HTTPError as error:
                broken(error)


async def with_aiohttp():
    import aiohttp

    context = ssl.create_default_context(cafile=work["ca"])
    timeout = aiohttp.ClientTimeout(total=40)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for ask in work["requests"]:
            try:
                async with session.request(ask["method"], ask["url"], headers=dict(ask["headers"]), data=ask["body"],
                                           ssl=context, proxy=proxy) as got:
                    version = f"{got.version.major}.{got.version.minor}"
                    tell(status=got.status, version=version, body=await got.text())
            except (aiohttp.ClientError, OSError) as error:
                broken(error)


match sys.argv[1]:
    case "requests":
        with_requests()
    case "httpx":
        with_httpx()
    case "aiohttp":
        asyncio.run(with_aiohttp())
