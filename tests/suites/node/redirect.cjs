// Loaded before a program (node --require): connections to the port that it has written down go to AMQP_PORT of
// loopback. The program itself stays as its authors wrote it.
'use strict';

const net = require('node:net');

const port = Number(process.env.AMQP_PORT);
const published = 5672;
const connect = net.connect;

net.connect = net.createConnection = function (options, ...rest) {
  if (options !== null && typeof options === 'object' && Number(options.port) === published) {
    options = { ...options, host: '127.0.0.1', port };
  }
  return connect.call(this, options, ...rest);
};
