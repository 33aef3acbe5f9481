/* The button beside a nonce: random bytes that were never anywhere but in this browser. */
(function ($) {
  'use strict';

  var BYTES = 16;

  $(document).on('click', '[data-trusted-clone-nonce]', function () {
    var bytes = new Uint8Array(BYTES);
    window.crypto.getRandomValues(bytes);
    var digits = Array.prototype.map.call(bytes, function (byte) {
      return ('0' + byte.toString(16)).slice(-2);
    });
    $(document.getElementById($(this).attr('data-trusted-clone-nonce')))
      .val(digits.join('')).trigger('change');
  });
}(jQuery));
