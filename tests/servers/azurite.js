// Runs Azurite's blob server on a free port of 127.0.0.1 with an empty container, prints the port, and ends when
// standard input ends.
//
// usage: azurite.js MAIN FOLDER CONTAINER ACCOUNT KEY    MAIN: Azurite's program; FOLDER: for its files

"use strict";

const crypto = require("crypto");
const http = require("http");

const [main, folder, container, account, key] = process.argv.slice(-5);

process.stdin.on("end", () => process.exit(0)).resume();

function createContainer(port) {
  const date = new Date().toUTCString();
  const version = "2021-08-06";
  // The account's name comes once by itself, and once from the path.
  const toSign =
    "PUT" + "\n".repeat(12) + `x-ms-date:${date}\nx-ms-version:${version}\n` +
    `/${account}/${account}/${container}\nrestype:container`;
  const signature = crypto.createHmac("sha256", Buffer.from(key, "base64")).update(toSign).digest("base64");
  const request = http.request({
    host: "127.0.0.1",
    port,
    method: "PUT",
    path: `/${account}/${container}?restype=container`,
    headers: {
      "x-ms-date": date,
      "x-ms-version": version,
      "content-length": 0,
      authorization: `SharedKey ${account}:${signature}`,
    },
  });
  request.on("response", (response) => {
    response.resume();
    if (response.statusCode !== 201) {
      console.error(`the container was refused: ${response.statusCode}`);
      process.exit(1);
    }
    process.stdout.write(`${port}\n`);
  });
  request.end();
}

// Azurite says there where it listens.
console.log = (text) => {
  const listens = /listens on http:\/\/127\.0\.0\.1:(\d+)/.exec(text);
  if (listens) {
    createContainer(Number(listens[1]));
  }
};

process.argv = [
  process.argv[0],
  main,
  ...["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", folder],
  ...["--silent", "--disableTelemetry", "--skipApiVersionCheck"],
];
require(main);
